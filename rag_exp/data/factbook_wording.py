"""How the Factbook's fields are asked for: a table of wordings by field and sub-field.

A wording is a noun phrase ("What is the <phrase> of <entity>?") or a whole question with ``{e}`` for the entity. The
sub-field "" is a field's own text; ``YYYY`` is any year, which the question then names. Fields that are not listed
are prose, contact data or cross-references, and are not asked for.
"""

from __future__ import annotations

import re

YEAR = "YYYY"


def _by_year(phrase: str) -> dict[str, str]:
    return {YEAR: phrase}


def _sexes(total: str, male: str, female: str, of_total: str = "total") -> dict[str, str]:
    return {of_total: total, "male": male, "female": female}


def _flows(what: str) -> dict[str, str]:
    return {name: f"{what} {name}" for name in ("production", "consumption", "exports", "imports", "proven reserves")}


def _chamber(which: str) -> dict[str, str]:
    body = f"{which} chamber of the legislature" if which else "legislature"
    name = {"chamber name": f"What is the {body} of {{e}} called?"} if which else {}
    return name | {
        "number of seats": f"How many seats does the {body} of {{e}} have?",
        "electoral system": f"Which electoral system elects the {body} of {{e}}?",
        "scope of elections": f"What is the scope of elections to the {body} of {{e}}?",
        "term in office": f"How long is a term in the {body} of {{e}}?",
        "most recent election date": f"When was the {body} of {{e}} last elected?",
        "expected date of next election": f"When will the {body} of {{e}} next be elected?",
        "percentage of women in chamber": f"What is the percentage of women in the {body} of {{e}}?",
        "parties elected and seats per party": f"Which parties won how many seats in the {body} of {{e}}?",
    }


def _mission(whose: str) -> dict[str, str]:
    return {
        "chief of mission": f"Who is the chief of mission of {whose}?",
        "telephone": f"What is the telephone number of {whose}?",
        "FAX": f"What is the fax number of {whose}?",
        "consulate(s) general": f"Where are the consulates general of {whose}?",
        "consulate(s)": f"Where are the consulates of {whose}?",
    }


_WATER = {
    f"{quality}: {where}": f"What share of the {where} population of {{e}} has {quality} {{what}}?"
    for quality in ("improved", "unimproved")
    for where in ("urban", "rural", "total")
}


def _access(what: str) -> dict[str, str]:
    return {sub: phrase.replace("{what}", what) for sub, phrase in _WATER.items()}


WORDING: dict[str, dict[str, str]] = {
    "Age structure": {
        "0-14 years": "What share of the population of {e} is aged 0-14 years?",
        "15-64 years": "What share of the population of {e} is aged 15-64 years?",
        "65 years and over": "What share of the population of {e} is aged 65 years and over?",
    },
    "Agricultural products": {"": "What are the agricultural products of {e}?"},
    "Airports": {"": "How many airports does {e} have?"},
    "Alcohol consumption per capita": {
        "total": "total alcohol consumption per capita",
        "beer": "alcohol consumption per capita as beer",
        "wine": "alcohol consumption per capita as wine",
        "spirits": "alcohol consumption per capita as spirits",
        "other alcohols": "alcohol consumption per capita as other alcohols",
    },
    "Area": {"total": "total area", "land": "land area", "water": "water area"},
    "Area - comparative": {"": "How large is {e} in comparison?"},
    "Average household expenditures": {
        "on food": "average household expenditure on food",
        "on alcohol and tobacco": "average household expenditure on alcohol and tobacco",
    },
    "Birth rate": {"": "birth rate"},
    "Broadband - fixed subscriptions": {
        "total": "How many broadband subscriptions does {e} have in total?",
        "subscriptions per 100 inhabitants": "How many broadband subscriptions per 100 inhabitants does {e} have?",
    },
    "Budget": {
        "revenues": "What are the budget revenues of {e}?",
        "expenditures": "What are the budget expenditures of {e}?",
    },
    "Capital": {
        "name": "capital",
        "geographic coordinates": "What are the geographic coordinates of the capital of {e}?",
        "time difference": "time difference of the capital",
    },
    "Carbon dioxide emissions": {
        "total emissions": "What are the total carbon dioxide emissions of {e}?",
        "from petroleum and other liquids": "What are the carbon dioxide emissions from petroleum of {e}?",
        "from coal and metallurgical coke": "What are the carbon dioxide emissions from coal of {e}?",
        "from consumed natural gas": "What are the carbon dioxide emissions from natural gas of {e}?",
    },
    "Child marriage": {
        "women married by age 15": "What share of women in {e} is married by age 15?",
        "women married by age 18": "What share of women in {e} is married by age 18?",
        "men married by age 18": "What share of men in {e} is married by age 18?",
    },
    "Children under the age of 5 years underweight": {
        "": "What share of children under 5 years is underweight in {e}?"
    },
    "Citizenship": {
        "citizenship by birth": "Does {e} grant citizenship by birth?",
        "citizenship by descent only": "Does {e} grant citizenship by descent only?",
        "dual citizenship recognized": "Does {e} recognize dual citizenship?",
        "residency requirement for naturalization": "residency requirement for naturalization",
    },
    "Civil aircraft registration country code prefix": {"": "civil aircraft registration prefix"},
    "Climate": {"": "What is the climate of {e} like?"},
    "Coal": _flows("coal"),
    "Coastline": {"": "How long is the coastline of {e}?"},
    "Country name": {
        "conventional long form": "What is the conventional long form of the name of {e}?",
        "local long form": "What is the local long form of the name of {e}?",
        "local short form": "What is the local short form of the name of {e}?",
        "former": "former name",
        "abbreviation": "What is the abbreviation of the name of {e}?",
    },
    "Current account balance": _by_year("current account balance"),
    "Currently married women (ages 15-49)": {"": "What share of women aged 15-49 is married in {e}?"},
    "Death rate": {"": "death rate"},
    "Debt - external": _by_year("external debt"),
    "Dependency ratios": {
        "total dependency ratio": "total dependency ratio",
        "youth dependency ratio": "youth dependency ratio",
        "elderly dependency ratio": "elderly dependency ratio",
        "potential support ratio": "potential support ratio",
    },
    "Dependency status": {"": "dependency status"},
    "Dependent areas": {"": "What are the dependent areas of {e}?"},
    "Diplomatic representation from the US": {"embassy": "Where is the US embassy in {e}?"}
    | _mission("the US mission in {e}"),
    "Diplomatic representation in the US": {"chancery": "Where is the chancery of {e} in the US?"}
    | _mission("the mission of {e} in the US"),
    "Drinking water source": _access("drinking water"),
    "Education expenditure": {
        "% GDP": "education expenditure as % of GDP",
        "% national budget": "education expenditure as % of the national budget",
    },
    "Electricity": {
        "installed generating capacity": "installed electricity generating capacity",
        "consumption": "electricity consumption",
        "exports": "What are the electricity exports of {e}?",
        "imports": "What are the electricity imports of {e}?",
        "transmission/distribution losses": "What are the electricity transmission/distribution losses of {e}?",
    },
    "Electricity access": {
        "electrification - total population": "electrification of the total population",
        "electrification - urban areas": "electrification of the urban areas",
        "electrification - rural areas": "electrification of the rural areas",
    },
    "Electricity generation sources": {
        name: f"What share of the electricity of {{e}} is generated from {name}?"
        for name in (
            "fossil fuels",
            "solar",
            "hydroelectricity",
            "biomass and waste",
            "wind",
            "nuclear",
            "geothermal",
            "tide and wave",
        )
    },
    "Elevation": {
        "highest point": "highest point",
        "lowest point": "lowest point",
        "mean elevation": "mean elevation",
    },
    "Energy consumption per capita": _by_year("total energy consumption per capita"),
    "Environmental issues": {"": "What are the environmental issues of {e}?"},
    "Ethnic groups": {"": "What are the ethnic groups of {e}?"},
    "Exchange rates": {"Currency": "currency", YEAR: "exchange rate"},
    "Executive branch": {
        "chief of state": "Who is the chief of state of {e}?",
        "head of government": "Who is the head of government of {e}?",
        "cabinet": "cabinet",
        "most recent election date": "When was the most recent election of the executive of {e}?",
        "expected date of next election": "When is the next election of the executive of {e} expected?",
    },
    "Exports": _by_year("What were the exports of {e} in YYYY?"),
    "Exports - commodities": {"": "What are the export commodities of {e}?"},
    "Exports - partners": {"": "Who are the export partners of {e}?"},
    "GDP (official exchange rate)": {"": "GDP at the official exchange rate"},
    "GDP - composition, by end use": {
        name: f"What share of the GDP of {{e}} is {name}?"
        for name in (
            "household consumption",
            "government consumption",
            "investment in fixed capital",
            "investment in inventories",
            "exports of goods and services",
            "imports of goods and services",
        )
    },
    "GDP - composition, by sector of origin": {
        name: f"What share of the GDP of {{e}} is {name}?" for name in ("agriculture", "industry", "services")
    },
    "Geographic coordinates": {"": "What are the geographic coordinates of {e}?"},
    "Geoparks": {
        "total global geoparks and regional networks": "How many global geoparks does {e} have?",
        "global geoparks and regional networks": "What are the global geoparks of {e}?",
    },
    "Gini Index coefficient - distribution of family income": _by_year("Gini index coefficient of family income"),
    "Government type": {"": "government type"},
    "Gross reproduction rate": {"": "gross reproduction rate"},
    "Health expenditure": {
        "as % of GDP": "health expenditure as % of GDP",
        "as % of national budget": "health expenditure as % of the national budget",
    },
    "Heliports": {"": "How many heliports does {e} have?"},
    "Hospital bed density": {"": "hospital bed density"},
    "Household income or consumption by percentage share": {
        "lowest 10%": "What is the share of the lowest 10% in the household income of {e}?",
        "highest 10%": "What is the share of the highest 10% in the household income of {e}?",
    },
    "Illicit drugs": {
        "USG identification": "What does the US government identify {e} as with regard to illicit drugs?"
    },
    "Imports": _by_year("What were the imports of {e} in YYYY?"),
    "Imports - commodities": {"": "What are the import commodities of {e}?"},
    "Imports - partners": {"": "Who are the import partners of {e}?"},
    "Independence": {"": "When did {e} become independent?"},
    "Industrial production growth rate": {"": "industrial production growth rate"},
    "Industries": {"": "What are the industries of {e}?"},
    "Infant mortality rate": _sexes(
        "total infant mortality rate", "male infant mortality rate", "female infant mortality rate"
    ),
    "Inflation rate (consumer prices)": _by_year("inflation rate"),
    "International environmental agreements": {
        "signed, but not ratified": "Which environmental agreements has {e} signed, but not ratified?"
    },
    "International organization participation": {"": "Which international organizations does {e} participate in?"},
    "Internet country code": {"": "internet country code"},
    "Internet users": {"percent of population": "What share of the population of {e} uses the internet?"},
    "Irrigated land": {"": "How much irrigated land does {e} have?"},
    "Judicial branch": {
        "highest court(s)": "highest court",
        "subordinate courts": "What are the subordinate courts of {e}?",
    },
    "Labor force": {"": "labor force"},
    "Land boundaries": {
        "total": "total length of the land boundaries",
        "border countries": "Which countries border {e}, and for how many km?",
    },
    "Languages": {"": "What are the languages of {e}?"},
    "Legal system": {"": "legal system"},
    "Legislative branch": {
        "legislature name": "What is the legislature of {e} called?",
        "legislative structure": "legislative structure",
    }
    | _chamber(""),
    "Legislative branch - lower chamber": _chamber("lower"),
    "Legislative branch - upper chamber": _chamber("upper"),
    "Life expectancy at birth": _sexes(
        "life expectancy of the total population", "male life expectancy", "female life expectancy", "total population"
    ),
    "Literacy": _sexes(
        "literacy of the total population",
        "literacy of the male population",
        "literacy of the female population",
        "total population",
    ),
    "Location": {"": "Where is {e} located?"},
    "Major aquifers": {"": "What are the major aquifers of {e}?"},
    "Major lakes (area sq km)": {
        "fresh water lake(s)": "What are the major fresh water lakes of {e}?",
        "salt water lake(s)": "What are the major salt water lakes of {e}?",
    },
    "Major watersheds (area sq km)": {
        f"{ocean} drainage": f"What are the major watersheds of {{e}} in the {ocean} drainage?"
        for ocean in ("Arctic Ocean", "Atlantic Ocean", "Indian Ocean", "Pacific Ocean", "Internal (endorheic basin)")
    },
    "Map references": {"": "Which map reference does {e} belong to?"},
    "Maritime claims": {
        "territorial sea": "claimed territorial sea",
        "contiguous zone": "claimed contiguous zone",
        "continental shelf": "claimed continental shelf",
        "exclusive economic zone": "claimed exclusive economic zone",
        "exclusive fishing zone": "claimed exclusive fishing zone",
    },
    "Maternal mortality ratio": {"": "maternal mortality ratio"},
    "Median age": _sexes("total median age", "male median age", "female median age"),
    "Merchant marine": {
        "total": "How many ships are in the merchant marine of {e} in total?",
        "by type": "How many ships of each type are in the merchant marine of {e}?",
    },
    "Methane emissions": {
        name: f"What are the methane emissions of {{e}} from {name}?" for name in ("energy", "agriculture", "waste")
    }
    | {"other": "What are the methane emissions of {e} from other sources?"},
    "Military and security forces": {"": "What are the military and security forces of {e}?"},
    "Military and security service personnel strengths": {"": "military and security service personnel strength"},
    "Military expenditures": _by_year("What were the military expenditures of {e} in YYYY?"),
    "Mother's mean age at first birth": {"": "mother's mean age at first birth"},
    "National anthem(s)": {
        "title": "title of the national anthem",
        "lyrics/music": "Who wrote the lyrics and music of the national anthem of {e}?",
        "history": "history of the national anthem",
    },
    "National color(s)": {"": "What are the national colors of {e}?"},
    "National heritage": {
        "total World Heritage Sites": "How many World Heritage Sites does {e} have?",
        "selected World Heritage Site locales": "What are the World Heritage Sites of {e}?",
    },
    "National holiday": {"": "national holiday"},
    "National symbol(s)": {"": "What are the national symbols of {e}?"},
    "Nationality": {"noun": "What is the noun for a national of {e}?", "adjective": "What is the adjective for {e}?"},
    "Natural gas": _flows("natural gas"),
    "Natural hazards": {"": "What are the natural hazards of {e}?"},
    "Natural resources": {"": "What are the natural resources of {e}?"},
    "Net migration rate": {"": "net migration rate"},
    "Nuclear energy": {
        "Number of operational nuclear reactors": "How many operational nuclear reactors does {e} have?",
        "Number of nuclear reactors under construction": "How many nuclear reactors are under construction in {e}?",
        "Number of nuclear reactors permanently shut down": "How many nuclear reactors are shut down in {e}?",
        "Net capacity of operational nuclear reactors": "net capacity of the operational nuclear reactors",
        "Percent of total electricity production": "share of nuclear energy in the total electricity production",
    },
    "Obesity - adult prevalence rate": {"": "adult obesity rate"},
    "Particulate matter emissions": {"": "What are the particulate matter emissions of {e}?"},
    "Petroleum": {
        "total petroleum production": "total petroleum production",
        "refined petroleum consumption": "refined petroleum consumption",
        "crude oil estimated reserves": "What are the estimated crude oil reserves of {e}?",
    },
    "Physician density": {"": "physician density"},
    "Political parties": {"": "What are the political parties of {e}?"},
    "Population": _sexes("total population", "male population", "female population"),
    "Population below poverty line": {"": "What share of the population of {e} is below the poverty line?"},
    "Population growth rate": {"": "population growth rate"},
    "Ports": {
        "total ports": "How many ports does {e} have in total?",
        "large": "How many large ports does {e} have?",
        "medium": "How many medium ports does {e} have?",
        "small": "How many small ports does {e} have?",
        "very small": "How many very small ports does {e} have?",
        "size unknown": "How many ports of unknown size does {e} have?",
        "ports with oil terminals": "How many ports with oil terminals does {e} have?",
        "key ports": "What are the key ports of {e}?",
    },
    "Public debt": _by_year("public debt"),
    "Railways": {"total": "total length of the railways"}
    | {f"{gauge} gauge": f"length of the {gauge} gauge railways" for gauge in ("narrow", "standard", "broad", "dual")},
    "Real GDP (purchasing power parity)": _by_year("real GDP at purchasing power parity"),
    "Real GDP growth rate": _by_year("real GDP growth rate"),
    "Real GDP per capita": _by_year("real GDP per capita"),
    "Refugees and internally displaced persons": {
        "refugees": "How many refugees does {e} have?",
        "IDPs": "How many IDPs does {e} have?",
        "stateless persons": "How many stateless persons does {e} have?",
    },
    "Religions": {"": "What are the religions of {e}?"},
    "Remittances": _by_year("What were the remittances of {e} in YYYY?"),
    "Reserves of foreign exchange and gold": _by_year(
        "What were the reserves of foreign exchange and gold of {e} in YYYY?"
    ),
    "Sanitation facility access": _access("sanitation facility access"),
    "School life expectancy (primary to tertiary education)": _sexes(
        "total school life expectancy", "male school life expectancy", "female school life expectancy"
    ),
    "Sex ratio": {
        "at birth": "sex ratio at birth",
        "0-14 years": "sex ratio at 0-14 years",
        "15-64 years": "sex ratio at 15-64 years",
        "65 years and over": "sex ratio at 65 years and over",
        "total population": "sex ratio of the total population",
    },
    "Space launch site(s)": {"": "What are the space launch sites of {e}?"},
    "Suffrage": {"": "suffrage"},
    "Taxes and other revenues": {"": "What are the taxes and other revenues of {e}?"},
    "Telephones - fixed lines": {
        "total subscriptions": "How many fixed line subscriptions does {e} have in total?",
        "subscriptions per 100 inhabitants": "How many fixed line subscriptions per 100 inhabitants does {e} have?",
    },
    "Telephones - mobile cellular": {
        "total subscriptions": "How many mobile subscriptions does {e} have in total?",
        "subscriptions per 100 inhabitants": "How many mobile subscriptions per 100 inhabitants does {e} have?",
    },
    "Terrain": {"": "What is the terrain of {e} like?"},
    "Terrorist group(s)": {"": "Which terrorist groups are in {e}?"},
    "Tobacco use": _sexes("total tobacco use", "male tobacco use", "female tobacco use"),
    "Total fertility rate": {"": "total fertility rate"},
    "Total renewable water resources": {"": "What are the total renewable water resources of {e}?"},
    "Total water withdrawal": {
        name: f"{name} water withdrawal" for name in ("municipal", "industrial", "agricultural")
    },
    "Unemployment rate": _by_year("unemployment rate"),
    "Waste and recycling": {
        "municipal solid waste generated annually": "How much municipal solid waste does {e} generate annually?",
        "percent of municipal solid waste recycled": "What share of municipal solid waste is recycled in {e}?",
    },
    "Youth unemployment rate (ages 15-24)": _sexes(
        "total youth unemployment rate", "male youth unemployment rate", "female youth unemployment rate"
    ),
}


def ask(field: str, sub: str, entity: str) -> str | None:
    """The question for a sub-field of ``entity`` (with its article), or None where it is not asked for.

    >>> ask("Capital", "name", "Chile"), ask("Exports", "2023", "the Bahamas")
    ('What is the capital of Chile?', 'What were the exports of the Bahamas in 2023?')
    """
    wordings = WORDING.get(field, {})
    year = sub if re.fullmatch(r"(?:19|20)\d\d", sub) else None
    wording = wordings.get(YEAR if year else sub)
    if wording is None:
        return None
    if "{e}" not in wording:
        wording = f"What was the {wording} of {{e}} in YYYY?" if year else f"What is the {wording} of {{e}}?"
    return wording.replace(YEAR, year or YEAR).replace("{e}", entity)
